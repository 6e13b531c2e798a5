"""A page per experiment under results/, written from the stored outcomes in benchmarks/claims."""


def setup(app):
    return {"parallel_read_safe": True, "parallel_write_safe": True}
