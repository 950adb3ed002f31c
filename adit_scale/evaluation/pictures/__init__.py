"""Pictures of samples and of their scores.

``gallery.write_gallery`` draws the samples, ``figures.write_figures`` what was found of them.
"""
