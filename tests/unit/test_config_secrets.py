"""Settings can be shown without showing a password."""

from ratelease import Client, Config


def test_settings_do_not_show_the_password_of_their_url() -> None:
    """Neither the settings themselves, nor a client that was made from them."""
    config = Config(url="redis://user:sentinel-password@127.0.0.1:1/0")
    client = Client(config=config)
    assert "sentinel-password" not in f"{config!r} {config} {client!r} {client}"
