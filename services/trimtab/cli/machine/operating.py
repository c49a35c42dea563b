"""Who acts, and under which id: what every act on the audit trail names."""

import getpass

from trimtab.core import ids


def operator() -> str:
    """Who acts, as the machine knows them."""
    return getpass.getuser()


def new_request() -> str:
    """The id under which one act is tried, however often, and stands on the audit trail."""
    return str(ids.uuid7())
