"""Where pages come from: a live process, files, or a core dump.

Every source is a list of *runs*: stretches of pages that lie one after another in a file, or in the
memory of a process.

What counts as anonymous memory of a process is what the kernel would have to swap for it: pages
present in its private mappings that belong to no file, so heap, stacks and anonymous mmap, and also
those pages of a privately mapped file that the process has written to, wherever the file is.  The
kernel is asked which these are, mapping by mapping (the flags in smaps) and page by page
(PAGEMAP_SCAN, or the pagemap where there is none); no name decides.  Left out: pages of files
(dropped, not swapped); shared memory (swapped too, but no single process's; how much there is of it
is told); the kernel's one zero page wherever it is mapped (it takes no memory; told apart from
Linux 6.7 on); and, each told with its size, what is locked in RAM, hugetlb pages, devices.  Pages
in swap already are counted apart and not read, as reading them would bring them back.

A process is not stopped, so a page may vanish between the look at the page tables and the read; it
is then left out and counted.  Nor does looking wait for anybody: what might only come from a
userfaultfd, or from a FUSE or network file system, is left out and told; each page is looked at
once more right before it is read; and all of it is done by a child process (`reader`) that is left
behind should it block all the same.
"""

from zswap.pages.cores import open_core
from zswap.pages.files import open_files
from zswap.pages.group import open_processes
from zswap.pages.output import capture
from zswap.pages.pagemap import left_out_words
from zswap.pages.process import Process, find_processes, largest_process, open_process, processes
from zswap.pages.sampling import sample
from zswap.pages.source import PageSource, Part, ProcessEnded, SourceError, printable
from zswap.pages.together import open_together
from zswap.pages.touched import Touched, watch_memory

__all__ = [
    "PageSource",
    "Part",
    "Process",
    "ProcessEnded",
    "SourceError",
    "Touched",
    "capture",
    "find_processes",
    "largest_process",
    "left_out_words",
    "open_core",
    "open_files",
    "open_process",
    "open_processes",
    "open_together",
    "printable",
    "processes",
    "sample",
    "watch_memory",
]
