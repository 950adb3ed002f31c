"""One job of a study, run from its folder: ``python -m adit_scale.jobs NODE_FOLDER``.

Kinds: shards, autoencoder, diffusion, reference, evaluation, report. A kind is a module here with
``run(node: NodeFolder, config: StudyConfig) -> Result``.
"""
