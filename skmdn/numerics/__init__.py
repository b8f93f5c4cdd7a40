"""Numbers: root searches, quadrature, special functions and their tails."""
