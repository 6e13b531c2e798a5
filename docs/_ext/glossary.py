"""`{glossary-of-terms}` lists the terms of tables and pages (`dualnets.lab.report.glossary`)."""

from docutils import nodes
from docutils.parsers.rst import Directive


class GlossaryOfTerms(Directive):
    """A definition list in the order of the alphabet; every term has an anchor."""

    def run(self):
        from dualnets.lab.report.glossary import TERMS

        items = []
        for term, text in sorted(TERMS.items()):
            name = nodes.term(term, term, ids=[nodes.make_id(f"term-{term}")])
            items.append(nodes.definition_list_item(
                "", name, nodes.definition("", nodes.paragraph(text, text))
            ))  # fmt: skip
        return [nodes.definition_list("", *items)]


def setup(app):
    app.add_directive("glossary-of-terms", GlossaryOfTerms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
