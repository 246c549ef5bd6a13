package org.fbskeras;

import org.tensorflow.lite.Delegate;

/**
 * The FBS delegate for TFLite's Interpreter: {@code new Interpreter.Options().addDelegate(delegate)}.
 *
 * <p>It must be closed after every interpreter that uses it, and not before. It runs FBS ops only; the interpreter runs
 * the others, in XNNPACK where that can.
 */
public final class FbsDelegate implements Delegate, AutoCloseable {
  static {
    System.loadLibrary("fbs_delegate_jni"); // brings libfbs_delegate.so
  }

  private long handle;

  public FbsDelegate() {
    this(new String[0], new String[0]);
  }

  /**
   * @param names the delegate's options, as in {@code fbs_keras.Interpreter}, such as "winograd"
   * @param values theirs, as many, such as "2"
   * @throws IllegalArgumentException if an option is unknown or its value is not one of those it takes
   */
  public FbsDelegate(String[] names, String[] values) {
    handle = create(names, values);
  }

  @Override
  public long getNativeHandle() {
    if (handle == 0) throw new IllegalStateException("the FBS delegate is closed");
    return handle;
  }

  @Override
  public void close() {
    destroy(handle);
    handle = 0;
  }

  private static synchronized native long create(String[] names, String[] values);

  private static native void destroy(long handle);
}
