"""What a sheet's page says, read without its script."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image


class Page(HTMLParser):
    """Pictures by cell, data, addresses and the policy of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.text = path.read_text("utf-8")
        self.sources, self.alts, self.tags, self.addresses, self.policy = {}, {}, [], [], ""
        self._cell, self._script, data = None, None, []
        self._data = data
        self.feed(self.text)
        self.data = json.loads("".join(data))

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append((tag, named))
        self.addresses += [named[key] for key in ("src", "href", "action", "srcset", "data") if named.get(key)]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag == "button":
            self._cell = named.get("data-cell")
        if tag == "img" and self._cell:
            self.sources[self._cell], self.alts[self._cell] = named["src"], named["alt"]
        self._script = named.get("type", "text/javascript") if tag == "script" else None

    def handle_endtag(self, tag):
        if tag == "button":
            self._cell = None

    def handle_data(self, data):
        if self._script == "application/json":
            self._data.append(data)

    def pixels(self, cell: str) -> np.ndarray:
        kind, _, encoded = self.sources[cell].partition(",")
        assert kind == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), dtype=int)

    def cell(self, *words: str) -> str:
        """The one cell whose description holds all the words."""
        (found,) = [key for key, cell in self.data["cells"].items() if all(word in cell["alt"] for word in words)]
        return found


def columns(page: Page) -> list[str]:
    return re.findall(r'<th scope="col">(.*?)</th>', page.text.split("</thead>")[0])
