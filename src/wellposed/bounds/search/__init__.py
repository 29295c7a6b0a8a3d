"""How metrics are looked for; nothing here proves anything."""
