"""An installed Spack store as a source, and what its packages must be for Spack to install them from the registry.

The store's files are read; Spack itself is neither imported nor run. In reading order:

- `store.py` is the source: it joins what follows into packages.
- `database.py` reads which specs are installed, `specs.py` chooses the roots, `dependencies.py` says what goes along
  with them, `places.py` where the files lie now, `recipes.py` what may not be given to others.
- `naming.py` makes tag, description and platform, `environment.py` the variables of the image.
- `package_format.py` is what a push asks per package: an inspector for its layer, and keys for its config.
- `layer.py` is that inspector; `installation.py` knows what it must say, `content.py` judges the files that
  pass it, `buildinfo.py` writes what was found.
- `index.py` is the document by which Spack knows what is in a registry: read, made, merged.

Two generations of Spack are told apart by the version of the store's database: 7 is 0.x, 8 is 1.x. They write
different documents and judge files differently; what is pushed is what the store's own Spack would have pushed, with
few wanted exceptions (all are in the README, "For Spack users").
"""
