"""`specd redis-acl`: print the access control list of a Redis that specd shares with nobody it trusts."""

import argparse

from service.storage.redis_acl import acl_lines, read_passwords


def run(arguments: argparse.Namespace) -> int:
    """Print the list, with hashes of the passwords in the folder; passwords that are not there are drawn."""
    print("\n".join(acl_lines(read_passwords(arguments.folder), redis_6=arguments.redis_6)))
    return 0
