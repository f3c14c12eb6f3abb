"""Files from outside of the site, included in it: their links become those of the site."""


def links(app, path, parent: str, content: list[str]) -> None:
    """Links of `benchmarks/README.md` as they are seen from the page that includes it."""
    if parent == "benchmarks/index":
        for old, new in (("](results/", "]("), ("](../docs/benchmarks/", "](")):
            content[0] = content[0].replace(old, new)
        content[0] = content[0].replace("[results](results)", "`benchmarks/results`")
        content[0] = content[0].replace("[bsds500.yaml](recipes/bsds500.yaml)", "`bsds500.yaml`")
