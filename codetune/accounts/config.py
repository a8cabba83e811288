"""The options of accounts."""

from __future__ import annotations

from codetune.options import Options, option


class AccountOptions(Options):
    """How people log in."""

    registration: bool = option(
        False, description="Whether anybody may make themselves an account (POST /register/)."
    )
    login_hours: float = option(
        12.0, gt=0, le=24 * 30, description="Hours after which a login has to be repeated."
    )
    failures_per_name: int = option(
        10, ge=1, description="Failed logins of one name in a quarter of an hour, then it waits."
    )
    failures_per_address: int = option(
        50, ge=1, description="Failed logins from one address in a quarter of an hour."
    )
    registrations_per_address: int = option(
        20, ge=1, description="Accounts that one address may make in a day."
    )
