"""Many scans: what there is to do, who does it, and what became of it.

All of it is files below ``OUTPUT/.medidiff``; whoever can see that folder can work on it, and nothing is lost with any
process, machine or network between them. The package knows neither networks nor formats: a `Task` computes one case.
"""
