"""The bench: this library beside the bare codec and others that hold pages, on the same pages.

corpora    the pages
rows       what holds them: this library, the limits, the peers;  zram: the kernel's
table      every row in a process of its own, taking turns
figures    what the project promises, and whether it holds here
growth     from 10^4 to 10^7 entries
output     tables, JSON, Markdown, pictures
"""
