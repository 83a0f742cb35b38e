"""Coefficients that are learnt by gradient: an objective in, a file of coefficients out."""
