"""What import-linter cannot see of the imports, and what no module may do: read from the syntax trees."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("connectors", "model", "pipeline", "annotate", "jobs")
OURS = ("fewscope", "tests", "benchmarks", "examples")
PROGRAMS = {ROOT / "model/networks/frozen_encoder.py": {"torch.jit.load"}}
"""Where users have their own programs opened: `--encoder`, see SECURITY.md."""

WHERE_INSTALLED = {"pandas", "anndata", "napari"}
"""What `Result` converts to, for those who have it; without it, a `MissingPackageError` says so."""

IMPORT_NAMES = {  # of distributions whose module has another name
    "cc3d": "connected-components-3d",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "openslide": "openslide-python",
    "ome_zarr_models": "ome-zarr-models",
    "dask_image": "dask-image",
    "rio_cogeo": "rio-cogeo",
    "cv2": "opencv-python-headless",
}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, at any depth; ``from a import b`` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.lineno, str(node.module)
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "importlib.import_module",
            "__import__",
        }:
            name = node.args[0]
            if isinstance(name, ast.JoinedStr):  # f"fewscope.jobs.{...}": one of ours, whichever it is
                name = name.values[0]
            assert isinstance(name, ast.Constant), f"line {node.lineno}: imports what a variable says"
            yield node.lineno, str(name.value).rstrip(".")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_every_module_is_imported_under_one_name():
    """`fewscope.pipeline.run`, never `pipeline.run`: a module imported under both would exist twice."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}; write fewscope.{name}"
        for path in modules(*PACKAGES, "fewscope", "tests", "benchmarks", "examples")
        for line, name in imports(parse(path))
        if name.split(".")[0] in PACKAGES
    ]
    assert not found, "\n".join(found)


def test_only_connectors_trace_rasters():
    """import-linter knows packages from outside as a whole: it cannot tell `rasterio.features` from `rasterio`."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules("model", "pipeline", "annotate", "jobs", "fewscope")
        for line, name in imports(parse(path))
        if name.startswith("rasterio.features")
    ]
    assert not found, "\n".join(found)


def test_no_pickled_weights_no_eval_no_shell():
    """Weights are safetensors; strings from outside are never run.

    Training checkpoints may be read with ``torch.load(..., weights_only=True)``: it unpickles tensors only.
    """
    forbidden = {
        "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load",
        "torch.jit.load", "torch.hub.load", "subprocess.getoutput",
    }  # fmt: skip
    found = []
    for path in modules(*PACKAGES, "examples", "benchmarks"):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"
            options = {
                keyword.arg: keyword.value.value
                for keyword in node.keywords
                if isinstance(keyword.value, ast.Constant)
            }
            if ast.unparse(node.func) in forbidden and ast.unparse(node.func) not in PROGRAMS.get(path, ()):
                found.append(where)
            if ast.unparse(node.func) == "torch.load" and options.get("weights_only") is not True:
                found.append(f"{where} without weights_only=True")
            found += [f"{where}({name}=True)" for name in ("shell", "allow_pickle") if options.get(name)]
    assert not found, "\n".join(found)


def test_every_library_imported_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {requirement.split("[")[0].split(">")[0].split("=")[0].strip() for requirement in requirements}

    run = names(project["dependencies"])
    extras = set().union(*map(names, project["optional-dependencies"].values()))
    missing = []
    for folders, allowed in (((*PACKAGES, "examples"), run), (("tests", "benchmarks"), run | extras)):
        for path in modules(*folders):
            own = {sibling.stem for sibling in path.parent.glob("*.py")}
            guarded = allowed.union(
                WHERE_INSTALLED,
                *(names(project["optional-dependencies"][e]) for e in ("train", "eval", "s3", "encoders")),
            )
            for line, name in imports(parse(path)):
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top in {*OURS, *own}:
                    continue
                if IMPORT_NAMES.get(top, top) not in guarded:
                    missing.append(f"{path.relative_to(ROOT)}:{line}: {top} is not in pyproject.toml")
    assert not missing, "\n".join(missing)


@pytest.mark.slow
def test_what_only_other_jobs_need_is_not_waited_for():
    """torchvision and what belongs to training take seconds to import, on every start of every worker."""
    said = "import sys, fewscope.jobs.segmenting; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "torch" in imported
    assert not imported & {"torchvision", "tensorboard", "sklearn", "matplotlib", "networkx", "scipy.stats"}


def test_a_mistyped_path_is_told_before_the_pipeline_is_imported(tmp_path: Path):
    said = """
import sys
from fewscope.jobs import segment_raster, segment_wsi
for main in (segment_wsi.main, segment_raster.main):
    for words in ("none.tif gone.tif --support none.geojson", "README.md none.tif --support none.geojson",
                  "README.md --support none/"):
        print(main([*words.split(), "--out", sys.argv[1]]), file=sys.stderr)
print("torch" in sys.modules, file=sys.stderr)
"""
    arguments = [sys.executable, "-c", said, str(tmp_path / "out")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    no_file = [
        f"error: {name}: no such file; check the path" for name in ("none.tif", "gone.tif", "none.geojson")
    ]
    no_folder = "error: none/: no such folder; check the path"
    once = [*no_file[:2], "2", no_file[2], "2", no_folder, "2"]
    assert done.stderr.splitlines() == [*once, *once, "False"]
    assert not (tmp_path / "out").exists()


def test_both_sides_of_the_wall_agree_on_patches_and_labels():
    from fewscope.connectors import conventions as connectors
    from fewscope.model import conventions as model

    assert (connectors.PATCH_SIZE, connectors.IGNORE_LABEL) == (model.PATCH_SIZE, model.IGNORE_LABEL)


def test_names_for_a_command_line_do_not_import_torch():
    said = (
        "import sys, fewscope.model.conventions, fewscope.model.networks.names as names, "
        "fewscope.model.training.recipes; "
        "assert names.MODELS and names.NETWORKS and names.RECIPES and names.LOSSES; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
