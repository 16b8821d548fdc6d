"""A small Sphinx extension for this book: pages that need no other host, a model that
runs in one of them, and the package's docstrings as they are.

By default formulas (MathJax) and stored widgets load from content delivery networks,
and offline a page shows neither. Where npm is at hand, the packages of
assets/npm/package.json are fetched with it once, checked against the digests that stand
there, and copied beside the pages. Where it is not, the pages keep Sphinx's defaults.
The bundled models of chapter 15 are written as ONNX files beside the pages, anew when
their weights or the code that writes them change. What happened is printed, and kept in
_build/offline.txt.
"""

import base64
import gzip
import hashlib
import json
import logging as python_logging
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from sphinx.util import inspect, logging

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ROOT / "book/assets/npm/package.json"
# outside book/: Jupyter Book loads every script of a book/_static on every page
STATIC = ROOT / "_build/static"
LIVE = ROOT / "_build/live"  # becomes _static/live
# which models run in a page, and bits of their weights
MODELS = {"hkd-cifar10": 8, "hkd-cifar10-tiny": 8}
WANTED = {  # which files of each package are copied
    "mathjax": r"es5/(tex-mml-chtml\.js|output/chtml/fonts/.*\.woff)",
    "onnxruntime-web": r"dist/ort(\.wasm\.bundle\.min\.mjs|-wasm-simd-threaded\.wasm)",
    "requirejs": r"require\.js",
    "@jupyter-widgets/html-manager": r"dist/(embed-amd\.js|.*\.woff2)",
}
# what the theme tells a screen reader, and what it had better tell: axe calls all three
# serious
SPOKEN = (
    (
        r'<summary>(<span class="toctree-toggle")',
        r'<summary aria-label="Show or hide the pages below this one">\1',
    ),
    # its text says more, and is what is seen
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (
        r'(search-button-field search-button__button" title="Search") '
        r'aria-label="Search"',
        r"\1",
    ),
)
logger = logging.getLogger(__name__)


def fetch(name: str, version: str, integrity: str, folder: Path, wanted: str) -> None:
    """Unpack the files of one npm package that match `wanted` into `folder`; ValueError
    when its digest is another one.
    """
    downloads = ROOT / "_build/npm"
    downloads.mkdir(parents=True, exist_ok=True)
    archive = downloads / f"{name.strip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        command = [shutil.which("npm"), "pack", "--silent", f"{name}@{version}"]
        subprocess.run(
            command, cwd=downloads, check=True, capture_output=True, timeout=120
        )
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != integrity:
        archive.unlink()
        raise ValueError(
            f"{name} {version} has the digest sha512-{digest}, wanted {integrity}"
        )
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = member.name.removeprefix("package/")
            if re.fullmatch(wanted, path):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())


def vendor() -> str | None:
    """Fill _build/static; the reason why not, when that fails."""
    packages = json.loads(PACKAGES.read_text(encoding="utf-8"))
    done = STATIC / "npm/done.json"
    if done.exists() and json.loads(done.read_text()) == packages["integrity"]:
        return None
    if shutil.which("npm") is None:
        return "npm was not found"
    shutil.rmtree(STATIC, ignore_errors=True)
    try:
        for name, version in packages["dependencies"].items():
            fetch(
                name,
                version,
                packages["integrity"][name],
                STATIC / "npm" / name,
                WANTED[name],
            )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"npm did not deliver ({error})"
    # 14 MB, and a plain server does not compress
    for whole in STATIC.glob("npm/onnxruntime-web/dist/*.wasm"):
        whole.with_suffix(".wasm.gz").write_bytes(
            gzip.compress(whole.read_bytes(), 9, mtime=0)
        )
        whole.unlink()
    shutil.copy(PACKAGES.parent / "require-config.js", STATIC / "npm")
    done.write_text(json.dumps(packages["integrity"]))
    return None


def make_offline(app, config) -> None:
    """Point formulas and widgets to local files, if they can be had."""
    reason = vendor()
    if reason is None:
        config.html_static_path.append(str(STATIC))
        config.mathjax_path = "npm/mathjax/es5/tex-mml-chtml.js"
        config.nb_ipywidgets_js = {
            "npm/require-config.js": {},
            "npm/requirejs/require.js": {},
            # The attribute is where other widgets would come from; relative to the
            # page, and notebooks lie at the top.
            "npm/@jupyter-widgets/html-manager/dist/embed-amd.js": {
                "data-jupyter-widgets-cdn": "_static/npm/"
            },
        }
        message = (
            "Formulas and widgets are part of the pages: they work without a network."
        )
    else:
        message = (
            f"Formulas and widgets load from a content delivery network: {reason}."
        )
    message += "\n" + make_live(app, config, offline=reason is None)
    logger.info(message)
    (ROOT / "_build").mkdir(exist_ok=True)
    (ROOT / "_build/offline.txt").write_text(message + "\n", encoding="utf-8")


def written(folder: Path) -> str | None:
    """Write the models of MODELS as a page reads them; the reason why not, when that
    fails.
    """
    try:
        import hkd_mini
        from hkd_mini.app import onnx_export, onnx_graphs, onnx_weights
        from hkd_mini.engine.weights import WEIGHTS, data_folder
    except ImportError as error:
        return str(error)
    modules = (onnx_graphs, onnx_export, onnx_weights)
    code = hashlib.sha256(
        b"".join(Path(m.__file__).read_bytes() for m in modules)
    ).hexdigest()
    for name, bits in MODELS.items():
        state = [
            hashlib.sha256((data_folder() / name / WEIGHTS).read_bytes()).hexdigest(),
            code,
            bits,
        ]
        done = LIVE / f"{name}.json"
        if done.exists() and json.loads(done.read_text()) == state:
            continue
        try:
            onnx_export.export(hkd_mini.load(name), folder, name, bits)
        except ImportError as error:
            return str(error)
        done.write_text(json.dumps(state))
    return None


def make_live(app, config, offline: bool) -> str:
    """Put the models and their runtime beside the pages (files.json says where); says
    what happened.
    """
    folder = LIVE / "static/live"
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    reason = written(folder)
    if reason is None:
        files["models"] = sorted(MODELS)
    if offline:
        at = "../npm/onnxruntime-web/dist"
        files |= {
            "ort": f"{at}/ort.wasm.bundle.min.mjs",
            "wasm": f"{at}/ort-wasm-simd-threaded.wasm.gz",
        }
    else:
        version = json.loads(PACKAGES.read_text(encoding="utf-8"))["dependencies"][
            "onnxruntime-web"
        ]
        at = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{version}/dist"
        files |= {"ort": f"{at}/ort.wasm.bundle.min.mjs"}
    (folder / "files.json").write_text(json.dumps(files), encoding="utf-8")
    config.html_static_path.append(str(LIVE / "static"))
    if reason is not None:
        return f"The live model of chapter 15 is a still picture: {reason}."
    whence = (
        "from beside the pages"
        if offline
        else "with onnxruntime-web from a content delivery network"
    )
    return f"The live model of chapter 15 runs {whence}."


def plain(line: str) -> str:
    """One line of a docstring for reStructuredText: `code` stays code, and formulas
    keep their *, _ and |.
    """
    parts = re.split(r"(`+[^`]*`+)", line)
    escaped = [re.sub(r"([*_|\\])", r"\\\1", part) for part in parts[::2]]
    code = ["``" + part.strip("`") + "``" for part in parts[1::2]]
    return "".join(
        part + (code[i] if i < len(code) else "") for i, part in enumerate(escaped)
    )


def read_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with formulas: escape them, show indented lines as they
    stand, and give each source a paragraph of its own.
    """
    out = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal:
            out += ["", "::", ""]
        elif literal and line and not indented:
            out.append("")
        elif line.startswith("Source:"):
            out.append("")
        literal = indented or (literal and not line)
        out.append(line if literal else plain(line))
    lines[:] = out


def read_signature(app, what, name, obj, options, signature, returns):
    """Show the signature that the hub mixin hides behind (*args, **kwargs), and names
    without their modules.
    """
    if what == "class" and signature == "(*args, **kwargs)":
        own = inspect.signature(obj.__init__, bound_method=True)
        signature = inspect.stringify_signature(own, unqualified_typehints=True)
    short = [
        re.sub(r"~(?:\w+\.)*(\w+)", r"\1", text) if text else text
        for text in (signature, returns)
    ]
    return tuple(short)


def skip_fields(app, what, name, obj, skip, options):
    """The fields of a NamedTuple are in its signature, and "Alias for field number 0"
    tells nobody anything.
    """
    return (
        True
        if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
        else None
    )


def drop_thebe(app, pagename, templatename, context, doctree) -> None:
    """No page starts a kernel, so Thebe's scripts (declared twice on each page, an
    error in the console) can go.
    """
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", "") or "")
        and "THEBE" not in (getattr(script, "attributes", {}).get("body") or "")
    ]


def speak_plainly(app, exception) -> None:
    """Mend the theme's names for screen readers in every page that was written."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            page = mended = path.read_text(encoding="utf-8")
            for found, instead in SPOKEN:
                mended = re.sub(found, instead, mended)
            if mended != page:
                path.write_text(mended, encoding="utf-8")


def setup(app):
    # the social cards' font has no bold
    python_logging.getLogger("matplotlib.font_manager").setLevel("ERROR")
    app.connect("config-inited", make_offline, priority=900)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", speak_plainly)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-skip-member", skip_fields)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
