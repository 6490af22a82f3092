def check(report, container): pass
