"""Pages of the site that are made from other files: README, CHANGELOG, CONTRIBUTING, notebooks, and the reference.

MkDocs calls the functions (``hooks`` in mkdocs.yml). Links between the repository's pages keep working: a link out of
`docs/` leads to a page of the site, or to a copy of the file.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
COPIES = ["LICENSE", "examples/ihc_nuclei.geojson", "examples/rasters/*"]
FLOORS = {  # as CONTRIBUTING.md draws them, from top to bottom
    "jobs": "Programs",
    "annotate": "Correction loop",
    "pipeline": "Pipeline",
    "connectors": "Connectors",
    "model": "Model",
}


def rooms() -> dict[str, list[str]]:
    """Floor -> its packages, the floor itself first, from the list in pyproject.toml."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    return {floor: sorted(name for name in packages if name.split(".")[1:2] == [floor]) for floor in FLOORS}


def reference(package: str) -> str:
    """The text of a package's page: what the package is for, then each of its modules."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    options = "    options: {members: false, show_root_toc_entry: false, show_root_heading: false}"
    parts = [f"# {package.removeprefix('fewscope.')}", f"::: {package}\n{options}"]
    return "\n\n".join([*parts, *(f"::: {package}.{module}" for module in modules)]) + "\n"


def links(text: str) -> str:
    """Links of a page at the repository's root, as they are from the root of the site."""
    text = re.sub(r"\]\(docs/", "](", text)
    return text.replace("](README.md", "](index.md")


def on_config(config: Any) -> Any:
    """Adds the rooms to the navigation."""
    entry = next(entry for entry in config["nav"] if "Developers" in entry)
    entry["Developers"] = [
        {"Contributing": "CONTRIBUTING.md"},
        *({title: [f"api/{name}.md" for name in rooms()[floor]]} for floor, title in FLOORS.items()),
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in docs/."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=links((ROOT / source).read_text())))
    for pattern in COPIES:
        for path in sorted(ROOT.glob(pattern)):
            copy = File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
            copy.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(copy)
    for packages in rooms().values():
        for package in packages:
            files.append(File.generated(config, f"api/{package}.md", content=reference(package)))
    return files


def notebook(executed: Path) -> str:
    """A notebook with its outputs as Markdown; pictures lie in the text itself."""
    parts = []
    for cell in json.loads(executed.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = data["image/png"].replace("\n", "")
                parts.append(f'<img src="data:image/png;base64,{picture}" alt="Output of the cell above">')
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            elif output["output_type"] != "stream" or output["name"] == "stdout":
                parts.append("```text\n" + "".join(output.get("text", data.get("text/plain", ""))) + "\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Outputs of the notebooks, if `make docs` has run them; links from docs/ to files outside it."""
    executed = ROOT / "build" / Path(page.file.src_uri).with_suffix(".ipynb")
    if page.file.src_uri.startswith("notebooks/") and executed.is_file():
        return notebook(executed)
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
