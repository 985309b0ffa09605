"""The settings of the HTTP side: where it listens, whom it lets in, and what it takes at most."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from core.setting_types import Name, Seconds


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP side. port 0 takes a free one; model_name None takes the target's (see `model_name`).

    api_keys_file  TOML of who may ask, made by `specd keys`; None lets in whoever reaches the port, which then has to
                   be one of this machine's own, unless allow_no_keys says that something else guards it
    open_metrics   GET /metrics needs no key
    sampling_defaults
                   what requests get of temperature, top_p, top_k, min_p and repetition_penalty where they do not say:
                   "model" is what generation_config.json beside the target says, "plain" the target's own law
    page           GET /page is there, for browsers; its files need no key, what they show does
    admin          the unix socket on which drafters are loaded and unloaded: "auto" is admin-PORT.sock in
                   queue.state_dir, else in the user's state folder; "off" is none; else a path, in which {port} stands
                   for the port. Who may open the file may do what it offers
    body_timeout_s a body that is not there by then is given up
    strict         requests with fields that are not known are refused; else these are left out, and named in
                   `x-specd-ignored`
    """

    host: Name = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    role: Literal["all", "gateway", "worker"] = "all"
    model_name: Name | None = None
    api_keys_file: Name | None = None
    allow_no_keys: bool = False
    open_metrics: bool = False
    sampling_defaults: Literal["model", "plain"] = "model"
    page: bool = True
    admin: Name = "auto"
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 1 << 20
    body_timeout_s: Seconds = 30.0
    request_timeout_s: Seconds = 600.0
    start_timeout_s: Seconds = 120.0
    strict: bool = False
