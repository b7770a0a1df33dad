"""A small ext4 disk of a test's own: an image behind a loop device, which may be promised more than there is.

Without `room` the disk fills up as disks do: a write says ENOSPC. With `room`, smaller than `size`, the image lies on a
tmpfs of that size: the file system believes in its space, its writes succeed, and writing them back fails, so that a sync
says EIO. That is a disk that dies under way. `repair` gives the tmpfs the room that was promised.

Needs root and a kernel with loop devices, tmpfs and ext4.
"""

import subprocess


def _run(*command, fine=(0,)):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode in fine, f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}"


class LoopDisk:
    """Mounted at `folder` from construction to `stop`. `size` and `room` in MiB."""

    def __init__(self, place, size, room=None):
        self.folder = place.folder / "disk"
        self._size, self._mounted = size, []
        self.folder.mkdir()
        self._store = place.folder / "store"
        self._store.mkdir()
        self._image = self._store / "image"
        try:
            if room:
                self._mount("-t", "tmpfs", "-o", f"size={room}m", "tmpfs", self._store)
            with open(self._image, "wb") as image:
                image.truncate(size * 2**20)
            # Written now, not by the kernel some time later.
            _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,nodiscard", self._image)
            self._mount("-o", "loop", self._image, self.folder)
        except BaseException:
            self.stop()
            raise

    def _mount(self, *arguments):
        _run("mount", *arguments)
        self._mounted.append(arguments[-1])

    def occupy(self, mebibytes):
        """A file that takes so much of it: room that can be given back."""
        taken = self.folder / "taken"
        _run("fallocate", "-l", mebibytes * 2**20, taken)
        return taken

    def repair(self):
        """Everything written from now on stays. What is on the disk is what the failure left, after the check of its file
        system that an operator makes before it is used again."""
        _run("umount", self._mounted.pop())
        _run("mount", "-o", f"remount,size={2 * self._size}m", self._store)
        # 1: errors were corrected.
        _run("e2fsck", "-f", "-y", self._image, fine=(0, 1))
        self._mount("-o", "loop", self._image, self.folder)

    def stop(self):
        while self._mounted:
            # Lazily: a test that failed may have left a process there.
            _run("umount", "-l", self._mounted.pop())
