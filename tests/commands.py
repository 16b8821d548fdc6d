"""What tests of the command line share."""

from hkd_mini.app import cli


def ends(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    try:
        cli.main([str(a) for a in arguments])
        status = 0
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()
