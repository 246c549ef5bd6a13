"""The code of tflite/android/app: the Java class on this machine's Java, the C++ example as far as it compiles."""

import os
import shutil
import subprocess
from pathlib import Path

import builds
import pytest

import fbs_keras

APP = builds.ROOT / "tflite" / "android" / "app"

DELEGATE = "package org.tensorflow.lite; public interface Delegate { long getNativeHandle(); }"
# Prints what each of these does.
MAIN = """
import org.fbskeras.FbsDelegate;

public class Main {
  interface Step { Object run(); }

  static void show(String name, Step step) {
    try {
      System.out.println(name + ": " + step.run());
    } catch (RuntimeException error) {
      System.out.println(name + ": " + error.getClass().getSimpleName() + ", " + error.getMessage());
    }
  }

  public static void main(String[] arguments) {
    FbsDelegate first = new FbsDelegate();
    FbsDelegate second = new FbsDelegate(new String[] {"winograd", "path"}, new String[] {"2", "plain"});
    org.tensorflow.lite.Delegate delegate = first;
    show("handle", () -> delegate.getNativeHandle() != 0);
    show("another", () -> second.getNativeHandle() != first.getNativeHandle());
    first.close();
    first.close();
    show("closed", () -> first.getNativeHandle());
    show("second", () -> second.getNativeHandle() != 0);
    second.close();
    show("value", () -> new FbsDelegate(new String[] {"winograd"}, new String[] {"3"}));
    show("counts", () -> new FbsDelegate(new String[] {"winograd"}, new String[] {}));
    show("null", () -> new FbsDelegate(new String[] {"winograd", null}, new String[] {"2", "x"}));
    show("no names", () -> new FbsDelegate(null, new String[] {}));
  }
}
"""


def java_home():
    """The folder of the Java development kit, or None."""
    compiler = shutil.which("javac")
    home = Path(os.environ.get("JAVA_HOME") or (Path(compiler).resolve().parents[1] if compiler else "/nowhere"))
    return home if compiler and (home / "include" / "jni.h").exists() else None


def run(*command, **options):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def jni_flags():
    if java_home() is None:
        pytest.skip("no Java development kit (javac and jni.h)")
    include = java_home() / "include"
    # Java finds the functions by their names, which no header declares.
    warnings = [*builds.WARNINGS, "-Wno-missing-prototypes"]
    return [*warnings, "-fPIC", "-shared", "-isystem", include, "-isystem", include / "linux"]


def built_by_hand(folder, jni_flags):
    libraries = ("-L", str(Path(fbs_keras.delegate_path()).parent), "-lfbs_delegate")
    shim = APP / "fbs_delegate_jni.c"
    builds.compile_c(folder / "libfbs_delegate_jni.so", *jni_flags, shim, libraries=libraries)
    return {"LD_LIBRARY_PATH": str(Path(fbs_keras.delegate_path()).parent)}


def built_by_cmake(folder, _):
    """As Gradle does it for an app."""
    if shutil.which("cmake") is None:
        pytest.skip("no CMake")
    environment = os.environ | {"JAVA_HOME": str(java_home())}
    launcher = folder / "compile"
    launcher.write_text('#!/bin/sh\nexec "$@" -O0\n')  # quicker
    launcher.chmod(0o755)
    options = ["-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_C_COMPILER_LAUNCHER={launcher}"]
    run("cmake", "-S", APP, "-B", folder / "build", *options, env=environment)
    run("cmake", "--build", folder / "build", "--parallel", "2")
    for library in (folder / "build").glob("*.so"):
        shutil.move(library, folder)
    return {"LD_LIBRARY_PATH": str(folder)}


@pytest.mark.parametrize("build", [built_by_hand, built_by_cmake])
def test_java(tmp_path, jni_flags, build):
    environment = build(tmp_path, jni_flags)
    (tmp_path / "Delegate.java").write_text(DELEGATE)
    (tmp_path / "Main.java").write_text(MAIN)
    ours = APP / "java" / "org" / "fbskeras" / "FbsDelegate.java"
    run("javac", "-Xlint:all", "-Werror", "-d", tmp_path, tmp_path / "Delegate.java", tmp_path / "Main.java", ours)
    java = ["java", "-Xcheck:jni", f"-Djava.library.path={tmp_path}", "-cp", tmp_path, "Main"]
    lines = run(*java, env=os.environ | environment).splitlines()
    assert lines == [
        "handle: true",
        "another: true",
        "closed: IllegalStateException, the FBS delegate is closed",
        "second: true",
        "value: IllegalArgumentException, option 'winograd' must be 0, 2 or 4, got '3'",
        "counts: IllegalArgumentException, there must be as many values of options as names",
        "null: NullPointerException, the names and values of options must not be null",
        "no names: IllegalArgumentException, there must be as many values of options as names",
    ]


def test_shim_for_arm(tmp_path, jni_flags):
    """The same source for 64-bit ARM. It imports Android's C library and the delegate only."""
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no aarch64-linux-gnu-gcc")
    library = tmp_path / "libfbs_delegate_jni.so"
    flags = [*jni_flags, "-O2", "-fvisibility=hidden", APP / "fbs_delegate_jni.c"]
    builds.compile_c(library, *flags, compiler=["aarch64-linux-gnu-gcc"], libraries=[])
    symbols = run("readelf", "--dyn-syms", "--wide", library).splitlines()
    exported = {line.split()[7] for line in symbols if " GLOBAL " in line and " UND " not in line}
    imported = {line.split()[7].split("@")[0] for line in symbols if " GLOBAL " in line and " UND " in line}
    assert exported == {f"Java_org_fbskeras_FbsDelegate_{name}" for name in ("create", "destroy")}
    assert {name for name in imported if name.startswith("tflite")} == {
        "tflite_plugin_create_delegate",
        "tflite_plugin_destroy_delegate",
    }
    assert imported <= {"calloc", "free", "snprintf", "__stack_chk_fail"} | {n for n in imported if "tflite" in n}


# The declarations of TFLite's C interface that the example needs: its headers are not on this machine.
C_API = """
#pragma once
#include <cstddef>
#include <cstdint>
extern "C" {
enum TfLiteStatus { kTfLiteOk = 0 };
struct TfLiteModel; struct TfLiteInterpreter; struct TfLiteInterpreterOptions; struct TfLiteTensor;
struct TfLiteDelegate;
TfLiteModel* TfLiteModelCreateFromFile(const char*);
void TfLiteModelDelete(TfLiteModel*);
TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate();
void TfLiteInterpreterOptionsDelete(TfLiteInterpreterOptions*);
void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions*, int32_t);
void TfLiteInterpreterOptionsAddDelegate(TfLiteInterpreterOptions*, TfLiteDelegate*);
TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*);
void TfLiteInterpreterDelete(TfLiteInterpreter*);
TfLiteStatus TfLiteInterpreterAllocateTensors(TfLiteInterpreter*);
TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter*, int32_t);
const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter*, int32_t);
TfLiteStatus TfLiteInterpreterInvoke(TfLiteInterpreter*);
size_t TfLiteTensorByteSize(const TfLiteTensor*);
TfLiteStatus TfLiteTensorCopyFromBuffer(TfLiteTensor*, const void*, size_t);
TfLiteStatus TfLiteTensorCopyToBuffer(const TfLiteTensor*, void*, size_t);
}
"""
EXTERNAL_DELEGATE = """
#pragma once
#include "tensorflow/lite/c/c_api.h"
extern "C" {
struct TfLiteExternalDelegateOptions { const char* lib_path; };
TfLiteExternalDelegateOptions TfLiteExternalDelegateOptionsDefault(const char*);
TfLiteStatus TfLiteExternalDelegateOptionsInsert(TfLiteExternalDelegateOptions*, const char*, const char*);
TfLiteDelegate* TfLiteExternalDelegateCreate(const TfLiteExternalDelegateOptions*);
void TfLiteExternalDelegateDelete(TfLiteDelegate*);
}
"""


@pytest.mark.parametrize("define", [[], ['-DEXTERNAL_DELEGATE="libfbs_delegate.so"']])
def test_cpp_example_compiles(tmp_path, define):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler (c++)")
    for name, text in (("c/c_api.h", C_API), ("delegates/external/external_delegate.h", EXTERNAL_DELEGATE)):
        header = tmp_path / "tensorflow" / "lite" / name
        header.parent.mkdir(parents=True)
        header.write_text(text)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only", "-I", tmp_path]
    run("c++", *flags, *define, APP / "classify.cc")
