"""The workers of a cluster, as the operator and the command line ask them."""
