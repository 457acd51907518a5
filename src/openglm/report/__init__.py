"""The report: one self-contained page on what was done to a model, what was measured and what is predicted.

`page.render` makes it from a bundle's manifest and nothing else: any bundle can be reported on again.
"""
