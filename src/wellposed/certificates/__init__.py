"""Certificates: Lipschitz constants, radii, perturbation and PAC-Bayes bounds, and witnesses against them."""

from wellposed.certificates.certificate import Certificate as Certificate
from wellposed.certificates.certification import certify as certify
from wellposed.certificates.perturbation import perturbation_bound as perturbation_bound
from wellposed.certificates.well_posedness import TwoEquilibria as TwoEquilibria
from wellposed.certificates.well_posedness import WellPosedness as WellPosedness
from wellposed.certificates.well_posedness import well_posedness as well_posedness
from wellposed.generalisation.pac_bayes import PacBayesBound as PacBayesBound
from wellposed.generalisation.pac_bayes import pac_bayes as pac_bayes
from wellposed.lower_bounds.witness import Witness as Witness
from wellposed.lower_bounds.witness import witness as witness
