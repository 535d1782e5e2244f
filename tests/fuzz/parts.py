"""The public methods once more, with parts of pages and rows of buffers among them.

A drive of its own: what was found for `api` would mean something else with more to choose from.
"""

import api
from api import buffer_of, offset_of
from common import PAGE, Data, page_of

import zswap


class Drive(api.Drive):
    """One engine and the dict that it must equal."""

    def steps(self):
        """What it chooses from."""
        return (*super().steps(), self.load_part, self.store_part, self.storev, self.loadv)

    def load_part(self):
        data = self.data
        offset, at, n = offset_of(data), data.number(0, PAGE), data.number(0, PAGE)
        absent = data.pick(("raise", "zeros", "nothing"))
        known = type(offset) in (int, bool) and 0 <= offset < 1 << 47
        try:
            part = self.z.load_part(offset, at, n, absent=absent)
            page = self.held.get(int(offset), bytes(PAGE) if absent == "zeros" else None)
            assert at + n <= PAGE
            assert bytes(part) == page[at : at + n]
        except KeyError:
            assert offset not in self.held
        except (ValueError, TypeError):
            assert not known or at + n > PAGE or absent == "nothing"
        except zswap.BackingError:
            assert self.store_ is not None
            assert self.store_.failing

    def store_part(self):
        data = self.data
        offset, at, part = offset_of(data), data.number(0, PAGE), page_of(data)
        part = part[: data.number(0, PAGE // 64) * 64]  # which any kind of buffer can hold
        buffer, good = buffer_of(data, part)
        absent = data.pick(("raise", "zeros", "nothing"))
        known = type(offset) in (int, bool) and 0 <= offset < 1 << 47
        try:
            self.z.store_part(offset, at, buffer, absent=absent)
        except KeyError:
            assert offset not in self.held
        except (ValueError, TypeError):
            assert not known or not good or at + len(part) > PAGE or absent == "nothing"
        except zswap.BackingError:
            assert self.store_ is not None
            assert self.store_.failing
            if int(offset) not in self.z:  # it was to take the page
                self.held.pop(int(offset), None)
        except zswap.Error:
            pass  # as it was
        else:
            new = memoryview(buffer).tobytes()
            assert good or len(new) != len(part)  # another length is another part
            assert at + len(new) <= PAGE
            page = self.held.get(int(offset), bytes(PAGE) if absent == "zeros" else None)
            self.held[int(offset)] = page[:at] + new + page[at + len(new) :]

    def row(self):
        """A first page, and the lengths of some buffers."""
        data = self.data
        first = offset_of(data)
        first = first if type(first) is int and 0 <= first < (1 << 47) - 64 else 0
        return first, [data.number(0, 2 * PAGE) for _ in range(data.number(0, 5))]

    def storev(self):
        first, lengths = self.row()
        whole = b"".join(page_of(self.data) for _ in range(sum(lengths) // PAGE + 1))
        whole = whole[: sum(lengths)]
        buffers, at = [], 0
        for n in lengths:
            buffers.append(whole[at : at + n])
            at += n
        pages = [whole[i : i + PAGE].ljust(PAGE, b"\0") for i in range(0, len(whole), PAGE)]
        try:
            assert self.z.storev(first, buffers) == len(pages)
            self.held.update(enumerate(pages, first))
        except zswap.BackingError:
            assert self.store_ is not None
            assert self.store_.failing
            for offset in range(first, first + len(pages)):
                self.held.pop(offset, None)
        except zswap.Error:
            pass  # as it was

    def loadv(self):
        first, lengths = self.row()
        buffers = [bytearray(n) for n in lengths]
        count = -(-sum(lengths) // PAGE)
        try:
            assert self.z.loadv(first, buffers, absent="zeros") == count
        except zswap.BackingError:
            assert self.store_ is not None
            assert self.store_.failing
            return
        expected = b"".join(self.held.get(o, bytes(PAGE)) for o in range(first, first + count))
        assert b"".join(buffers) == expected[: sum(lengths)]


def one_input(data):
    """Try one."""
    drive = Drive(Data(data))
    with drive.z:
        drive.run()
