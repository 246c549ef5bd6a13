"""Bazel, offline: Debian's bazel-bootstrap, with local repositories instead of what it would fetch."""

import shutil
import subprocess
from pathlib import Path

import build_delegate
import pytest
from builds import ROOT

RULES_JAVA = Path("/usr/share/bazel/rules/java")
# Bazel's own BUILD files ask for these, whatever is built.
REPOSITORIES = {
    "rules_cc/cc/defs.bzl": """
cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
fdo_prefetch_hints = native.fdo_prefetch_hints
fdo_profile = native.fdo_profile
objc_import = native.objc_import
objc_library = native.objc_library
""",
    "rules_cc/cc/BUILD": "",
    "rules_cc/WORKSPACE": "",
    "remote_coverage_tools/BUILD": """
filegroup(name = "coverage_report_generator", visibility = ["//visibility:public"])
""",
    "remote_coverage_tools/WORKSPACE": "",
}

pytestmark = pytest.mark.skipif(
    shutil.which("bazel") is None or not RULES_JAVA.is_dir(),
    reason="Bazel runs offline only as Debian's bazel-bootstrap and bazel-rules-java, which are not installed",
)


@pytest.fixture(scope="module")
def bazel(tmp_path_factory):
    """bazel(command, *arguments): the standard output; nothing is written outside of a temporary folder."""
    folder = tmp_path_factory.mktemp("bazel")
    for name, text in REPOSITORIES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    repositories = {"rules_java": RULES_JAVA} | {name.partition("/")[0]: None for name in REPOSITORIES}
    options = [f"--override_repository={name}={path or folder / name}" for name, path in repositories.items()]

    def run(command, *arguments):
        startup = ["bazel", "--batch", "--nohome_rc", f"--output_user_root={folder / 'output'}"]
        result = subprocess.run([*startup, command, *options, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
        return result.stdout

    yield run
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)  # so that pytest can remove it


def test_builds_and_tests(bazel, tmp_path):
    """The library exports its entry points, and every C test passes. -O1 comes last, and is quicker to compile."""
    options = ["--jobs=1", "--spawn_strategy=local", "--per_file_copt=.*@-O1"]
    options += ["--test_timeout=3600", f"--symlink_prefix={tmp_path}/", "--experimental_no_product_name_out_symlink"]
    report = bazel("test", *options, "//tflite/...", "//tests/native/...")
    programs = [path.stem for path in (ROOT / "tests/native").glob("test_*.c")]
    assert {name for name in programs if f"//tests/native:{name} " in report} == set(programs)
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", tmp_path / "bin/tflite/delegate/libfbs_delegate.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.split()[-1] for line in symbols.splitlines()} - {"__bss_start", "_edata", "_end"}  # gold's own
    assert names == {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}


def test_same_sources_as_setup(bazel):
    targets = "labels(srcs, //tflite/core:core) union labels(srcs, //tflite/delegate:libfbs_delegate.so)"
    labels = bazel("query", targets).split()
    files = {label.lstrip("/").replace(":", "/") for label in labels}
    assert {name for name in files if name.endswith(".c")} == set(build_delegate.sources())
