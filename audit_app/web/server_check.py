"""Refuse to run where other machines could reach the app: it runs attacks and reads paths for whoever opens it."""

from streamlit import config

from hardrank.audit_app.errors import AuditError
from hardrank.serving.settings import is_loopback

_REMEDY = (
    "start it with `hardrank app`, or from the repository with `streamlit run audit_app/app.py`, which reads "
    "audit_app/.streamlit/config.toml; to use it from another machine, open an SSH tunnel"
)


def check_server(*, allow_remote: bool = False) -> None:
    """Raise `AuditError` unless the server listens on the loopback only and usage statistics are off.

    `allow_remote` allows other addresses, for a container.
    """
    address = config.get_option("server.address")
    if not allow_remote and not is_loopback(address):
        raise AuditError(
            f"this app listens on {address or 'all addresses'}, but it must not be open to other machines: {_REMEDY}"
        )
    if config.get_option("browser.gatherUsageStats"):
        raise AuditError(f"usage statistics are switched on (browser.gatherUsageStats): {_REMEDY}")
