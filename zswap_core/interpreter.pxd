"""Whether Python can still be called: for the adapters, whose threads may outlive it."""

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030D0000
    #define zsw_python_is_gone() (!Py_IsInitialized() || Py_IsFinalizing())
    #else
    #define zsw_python_is_gone() (!Py_IsInitialized() || _Py_IsFinalizing())
    #endif
    """
    bint zsw_python_is_gone() nogil
