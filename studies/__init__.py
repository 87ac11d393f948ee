"""The two seed studies, the post's and the report's, as one command; docs/studies.md explains it.

python -m studies --data DIR [--exclude LIST] --out OUT makes every table and figure that concerns the
autoencoder and the small CNN, ours beside the published one.  Each study is a file that runs alone.
"""
