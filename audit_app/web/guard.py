"""The app runs attacks and reads paths for whoever can open it, so it is for this machine alone."""

import ipaddress

from streamlit import config

from hardrank.audit_app.errors import AuditError

_MEND = (
    "start it with `hardrank app`, or from the repository with `streamlit run audit_app/app.py`, whose settings "
    "lie in audit_app/.streamlit/config.toml; from another machine, reach it through an SSH tunnel"
)


def check_server(*, others: bool = False) -> None:
    """Raise `AuditError` unless the server listens on the loopback alone, and tells nobody of its use.

    `others`: it may listen elsewhere, since it was started so in a container.
    """
    address = config.get_option("server.address")
    if not others and not is_loopback(address):
        raise AuditError(
            f"this app listens on {address or 'all addresses'}, and it must not be open to others: {_MEND}"
        )
    if config.get_option("browser.gatherUsageStats"):
        raise AuditError(f"usage statistics are switched on (browser.gatherUsageStats): {_MEND}")


def is_loopback(address: str | None) -> bool:
    """Whether only this machine reaches what listens on `address`."""
    if address == "localhost":
        return True
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
