"""The zpools by name."""
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New

from zswap_core.abi cimport ZSW_ZPOOL_CAPSULE, ZSW_ZPOOL_FIRST, ZSW_ZPOOL_NEEDED, zsw_zpool_ops
from zswap_core.plugin cimport need_functions, take_table
from zswap_core.zpools.z3fold cimport z3fold_ops
from zswap_core.zpools.zbud cimport zbud_ops
from zswap_core.zpools.zsmalloc cimport zsmalloc_ops

from zswap_core.registry import Registry


cdef class Zpool:
    """An allocator that pools can be made with."""
    cdef const zsw_zpool_ops *ops
    cdef zsw_zpool_ops whole        # of one from outside: its table, under our name
    cdef bytes name
    cdef object keep                # whatever else must outlive the functions


cdef Zpool builtin(const zsw_zpool_ops *ops):
    cdef Zpool self = Zpool.__new__(Zpool)
    self.ops, self.name = ops, ops.name
    return self


cdef object zpools = Registry("zpool", ValueError, {
    "zsmalloc": builtin(zsmalloc_ops()),
    "z3fold": builtin(z3fold_ops()),
    "zbud": builtin(zbud_ops()),
})
BUILTIN = len(zpools.names())
cdef list taken = []                # those from outside, for good: pools outlive registration


def take_zpool(capsule, str name):
    """The allocator in a capsule, under this name."""
    cdef const void *given = PyCapsule_GetPointer(capsule, ZSW_ZPOOL_CAPSULE)
    cdef Zpool self = Zpool.__new__(Zpool)
    take_table(given, "zpool", ZSW_ZPOOL_NEEDED, &self.whole, sizeof(zsw_zpool_ops))
    need_functions(&self.whole, "zpool", ZSW_ZPOOL_FIRST, ZSW_ZPOOL_NEEDED)
    self.name, self.keep = name.encode(), capsule
    self.whole.name = self.name
    self.ops = &self.whole
    taken.append(self)
    return self


cdef const zsw_zpool_ops *zpool_find(str name) except? NULL:
    cdef Zpool found = zpools.get(name)
    if found is None:
        return NULL
    return found.ops


def zpool_names():
    """Names of the allocators: those that come with zswap, in order of preference, then others."""
    return zpools.names()


def zpool_capsule(str name):
    """The table of an allocator's functions, as one from outside gives its own."""
    return PyCapsule_New(<void *> zpool_find(name), ZSW_ZPOOL_CAPSULE, NULL)


def register_zpool(name, *, factory):
    """Add an allocator from outside.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, "_", "." and "-".  One registered before is replaced for pools
        that are made from now on.
    factory : callable
        ``factory()`` returns a PyCapsule of a ``zsw_zpool_ops`` (see ``zswap/abi.h``).

    Raises
    ------
    ValueError
        The name is not allowed, or belongs to an allocator that comes with zswap; or the table is
        incomplete or made for another ABI.
    """
    zpools.check(name)
    if name == "zsmalloc-kernel":
        raise ValueError(f"zpool {name!r} comes with zswap and cannot be replaced")
    if not callable(factory):
        raise TypeError("factory must be callable")
    zpools.add(name, take_zpool(factory(), name))


def unregister_zpool(name):
    """Take a registered allocator away.  Pools that are made of it stay.

    Parameters
    ----------
    name : str
        The name it was registered under.

    Raises
    ------
    ValueError
        Nothing was registered under that name, or it comes with zswap.
    """
    zpools.remove(name)
