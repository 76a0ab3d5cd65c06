"""The branches that `yowo` is put together from: 3D ones over the clip, 2D ones over the key frame.

`branch` says what a branch is, `catalogue` knows them by name, and each other module holds one family.
"""
