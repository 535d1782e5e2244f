"""Where pages come from: a live process, files, or a core dump.

Every source is a list of *runs*: stretches of pages that lie one after another in a file that can be read with
preadv(2).  For a process that file is /proc/PID/mem and the offset is the address; the process is not stopped, so a page
may vanish between the look at the page tables and the read.  It is then left out and counted.

What counts as anonymous memory of a process is what the kernel would have to swap for it: pages present in its private
mappings that belong to no file, so heap, stacks and anonymous mmap, and also those pages of a privately mapped file that
the process has written to.  Left out: pages of files (dropped, not swapped); shared memory (swapped too, but no single
process's; how much there is of it is told); the kernel's one zero page wherever it is mapped (it takes no memory; told apart
from Linux 6.7 on, by PAGEMAP_SCAN); devices, hugetlb pages and the vdso.  Pages in swap already are counted apart and not
read, as reading them would bring them back.
"""

from zswap.pages.cores import open_core
from zswap.pages.files import open_files
from zswap.pages.output import capture
from zswap.pages.process import Process, largest_process, open_process, processes
from zswap.pages.sampling import sample
from zswap.pages.source import PageSource, ProcessEnded, SourceError, printable

__all__ = [
    "PageSource",
    "Process",
    "ProcessEnded",
    "SourceError",
    "capture",
    "largest_process",
    "open_core",
    "open_files",
    "open_process",
    "printable",
    "processes",
    "sample",
]
