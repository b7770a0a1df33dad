"""A command line in a mount name space, for programs that have paths built in which the machine itself uses too."""


def command(binds, *arguments, hostname=None):
    """Runs `arguments` where each path among the values of `binds` is the file or folder of its key; with `hostname` the
    machine is called so there. What runs is the process that is started, with nothing around it."""
    mounts = "".join(f"mount --bind '{source}' '{where}'\n" for source, where in binds.items())
    # The shell is told what to become, so nothing needs quoting.
    script = f'{mounts}{f"hostname {hostname}" if hostname else ""}\nexec "$@"'
    spaces = ["--mount", *(["--uts"] if hostname else [])]
    return ["unshare", *spaces, "sh", "-ec", script, "apart", *map(str, arguments)]
