/* lref_target.h: LREF_TARGET("...") compiles what follows, to LREF_TARGET_END, for a processor
 * that has these features. */
#define LREF_PRAGMA(x) _Pragma(#x)
#ifdef LREF_TARGET
#define LREF_TARGET_END
#elif defined(__clang__)
#define LREF_TARGET(features) \
    LREF_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define LREF_TARGET_END _Pragma("clang attribute pop")
#else
#define LREF_TARGET(features) _Pragma("GCC push_options") LREF_PRAGMA(GCC target(features))
#define LREF_TARGET_END _Pragma("GCC pop_options")
#endif
