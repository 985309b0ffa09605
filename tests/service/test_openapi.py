"""/openapi.json says what the server has: each route, each field, each bound, from where they are kept."""

import jsonschema
import msgspec
import pytest

from service.gateway import Gateway
from service.http.openapi import BODIES, CONTENT, PARAMETERS, describe
from tests.service.fakes import FakeEngine, fake_settings, running, write_tokenizer


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


@pytest.fixture
def app(settings, tmp_path):
    return Gateway(settings, write_tokenizer(tmp_path / "model")).app()


def routes(app):
    return {(route.method, route.resource.canonical) for route in app.router.routes() if route.method != "HEAD"}


def described(app):
    paths = describe(app, is_strict=False)["paths"]
    return {(method.upper(), path): told for path, methods in paths.items() for method, told in methods.items()}


async def test_every_route_is_described_and_nothing_else(app):
    assert set(described(app)) == routes(app)
    assert ("POST", "/v1/chat/completions") in routes(app)


async def test_every_route_says_what_it_does(app):
    assert [key for key, told in described(app).items() if not told["summary"]] == []


async def test_the_tables_speak_of_routes_that_exist(app):
    assert {*BODIES, *CONTENT, *PARAMETERS} <= routes(app)


async def test_every_route_that_reads_a_body_says_which(app):
    without = {key for key, told in described(app).items() if key[0] in ("POST", "PUT") and "requestBody" not in told}
    assert {path.rpartition("/")[2] for _, path in without} == {"cancel"}


async def test_what_a_body_lacks_is_what_the_description_requires(settings):
    async with running(settings, FakeEngine()) as service:
        for (_, path), types in BODIES.items():
            required = {field.encode_name for one in types for field in msgspec.structs.fields(one) if field.required}
            status, body = await service.post(path)
            told = body["error"]["message"]
            assert status in ((400, 200) if not required else (400,)), (path, body)
            assert not required or any(name in told for name in required), (path, told)


async def test_references_lead_somewhere_and_schemas_are_schemas(app):
    told = describe(app, is_strict=False)
    components = told["components"]["schemas"]
    for schema in components.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = msgspec.json.encode(told).decode()
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(components)
    assert {"ChatRequest", "CompletionRequest", "ResponseRequest", "ErrorBody"} <= names


@pytest.mark.parametrize(("is_strict", "wanted"), [(True, False), (False, None)])
async def test_a_strict_server_says_that_it_takes_no_other_fields(app, is_strict, wanted):
    schema = describe(app, is_strict=is_strict)["components"]["schemas"]["ChatRequest"]
    assert schema.get("additionalProperties") is wanted


async def test_bounds_and_refusals_are_those_of_the_types(app):
    fields = describe(app, is_strict=False)["components"]["schemas"]["CompletionRequest"]["properties"]
    assert {"type": "number", "minimum": 0.0, "maximum": 2.0} in fields["temperature"]["anyOf"]
    assert fields["suffix"]["enum"] == [None, ""]


async def test_it_is_served(settings, app):
    async with running(settings, FakeEngine()) as service, service.http.get(f"{service.url}/openapi.json") as response:
        assert await response.json() == msgspec.json.decode(msgspec.json.encode(describe(app, is_strict=False)))
