"""The rows of the study that this bench repeats.

"Quantifying the Performance Isolation Properties of Virtualization Systems", ExpCS 2007, table 1,
as its authors publish it with the Isolation Benchmark Suite (Clarkson University, cs644,
isolation/results.html). Loss of good answers of SPECweb 2005 in percent: (three well-behaved
guests, the misbehaving guest). None: did not report.
"""

STRESSES = ("memory", "fork", "cpu", "disk", "network send", "network receive")

ROWS = {
    "VMware Workstation 5.5": {
        "memory": (0.0, 91.30),
        "fork": (0.0, None),
        "cpu": (0.0, 0.0),
        "disk": (0.0, 39.80),
        "network send": (0.0, 52.9),
        "network receive": (0.0, 0.0),
    },
    "Xen 3.0": {
        "memory": (0.03, None),
        "fork": (0.04, None),
        "cpu": (0.01, 0.0),
        "disk": (1.67, 11.53),
        "network send": (0.0, 0.33),
        "network receive": (0.04, 0.03),
    },
    "OpenVZ 2.6.18": {
        "memory": (0.0, None),
        "fork": (0.01, 87.80),
        "cpu": (0.0, 0.0),
        "disk": (2.52, 2.63),
        "network send": (21.3, 28.97),
        "network receive": (None, None),
    },
}
