"""Whether Python can be called: for the adapters, whose threads may outlive it, or have less of a
stack than it takes for granted.

Python counts its own calls, which no thread of ours has the stack for: one that calls the engine,
which calls it again, would go on until the process is ended.
"""

cdef extern from *:
    """
    #include <pthread.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    #if PY_VERSION_HEX >= 0x030D0000
    #define zsw_python_is_gone() (!Py_IsInitialized() || Py_IsFinalizing())
    #else
    #define zsw_python_is_gone() (!Py_IsInitialized() || _Py_IsFinalizing())
    #endif

    #define ZSW_STACK_SPARE ((size_t)1 << 18) /* for a call into Python; or a quarter of all */

    static int zsw_stack_is_short(void) {
        static __thread uintptr_t end; /* of what may be used; 1: the system sees to it itself */
        pthread_attr_t attr;
        void *low;
        size_t size;
        if (end == 0) {
            end = 1;
            if (syscall(SYS_gettid) != getpid() && pthread_getattr_np(pthread_self(), &attr) == 0) {
                if (pthread_attr_getstack(&attr, &low, &size) == 0) {
                    size /= 4;
                    end = (uintptr_t)low + (size < ZSW_STACK_SPARE ? size : ZSW_STACK_SPARE);
                }
                pthread_attr_destroy(&attr);
            }
        }
        return (uintptr_t)__builtin_frame_address(0) < end;
    }
    """
    bint zsw_python_is_gone() nogil
    bint zsw_stack_is_short() nogil
