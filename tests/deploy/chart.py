def check(report, binary, container): pass
