"""The commands of ``adit data``: fetch, build, info, verify, export."""
