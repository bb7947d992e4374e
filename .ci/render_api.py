"""Renders the API's description (functions/page/openapi/*.json) as functions/page/API.md.

    render_api.py            writes the file
    render_api.py --check    exits with 1 if the file is not what would be written
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path("functions/page")
METHODS = ("get", "post", "delete")


def merge(whole, part):
    for name, value in part.items():
        if isinstance(value, dict) and isinstance(whole.get(name), dict):
            merge(whole[name], value)
        else:
            whole[name] = value
    return whole


def description():
    whole = {}
    for part in sorted((FOLDER / "openapi").glob("*.json")):
        merge(whole, json.loads(part.read_text(encoding="utf-8")))
    return whole


def link(reference):
    name = reference.rsplit("/", 1)[1]
    return f"[{name}](#{name.lower()})"


def kind(schema):
    """A schema's type in a few words."""
    if "$ref" in schema:
        return link(schema["$ref"])
    if "oneOf" in schema:
        return " or ".join(kind(choice) for choice in schema["oneOf"])
    types = schema.get("type", "any JSON")
    types = types if isinstance(types, list) else [types]
    words = []
    for name in types:
        if name == "array":
            inner = kind(schema["items"]) if schema.get("items") else "any JSON"
            words.append(f"list of {inner}")
        elif name == "string":
            words.append({"uuid": "UUID", "date-time": "time", "binary": "bytes"}.get(schema.get("format"), "string"))
        else:
            words.append(name)
    text = " or ".join(words)
    bounds = []
    if "enum" in schema:
        bounds.append(", ".join(f"`{value}`" for value in schema["enum"] if value is not None))
    for least, most, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " bytes"), ("minItems", "maxItems", " items")):
        low, high = schema.get(least), schema.get(most)
        if high is not None and abs(high) < 2**31 - 1:
            bounds.append(f"{low if low is not None else 'up to'}{' to ' if low is not None else ' '}{high}{unit}")
        elif low:
            bounds.append(f"at least {low}{unit}")
    if "exclusiveMinimum" in schema:
        bounds.append(f"more than {schema['exclusiveMinimum']}")
    return f"{text}; {'; '.join(bounds)}" if bounds else text


def fields(schema, indent=""):
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        optional = "" if name in required else ", optional"
        said = field.get("description", "")
        yield f"{indent}- `{name}` ({kind(field)}{optional}): {said}".rstrip(": ")
        inner = field.get("items", field) if isinstance(field, dict) else field
        if "properties" in inner:
            yield from fields(inner, indent + "  ")


def operation(whole, method, path, op):
    yield f"### {method.upper()} {path}"
    yield ""
    yield op["summary"] + "." + (f" {op['description']}" if "description" in op else "")
    signed = [name for requirement in op["security"] for name in requirement]
    yield ""
    yield "Authentication: " + {"token": "token", "proof": "DPoP proof", "iam": "IAM"}.get("".join(signed), "none") + "."
    for parameter in op.get("parameters", ()):
        if "$ref" in parameter:
            continue
        yield ""
        yield f"`{parameter['name']}` in {parameter['in']} ({kind(parameter['schema'])}): {parameter['description']}"
    if "requestBody" in op:
        yield ""
        yield "Body: " + kind(op["requestBody"]["content"]["application/json"]["schema"]) + "."
    yield ""
    yield "| status | answer |"
    yield "|---|---|"
    for status, response in op["responses"].items():
        if "$ref" in response:
            response = whole["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        schemas = [kind(content["schema"]) for name, content in response.get("content", {}).items() if "problem" not in name]
        text = response["description"] + (f" {schemas[0]}" if schemas else "")
        yield f"| {status} | {text.replace('|', chr(92) + '|')} |"
    yield ""


def render():
    whole = description()
    yield "# The API"
    yield ""
    yield "Rendered from `openapi/*.json` by `.ci/render_api.py`; do not edit."
    yield ""
    yield whole["info"]["description"]
    yield ""
    for tag in whole["tags"]:
        yield f"## Routes: {tag['name']}"
        yield ""
        yield tag["description"]
        yield ""
        for path, operations in whole["paths"].items():
            for method in METHODS:
                if method in operations and tag["name"] in operations[method]["tags"]:
                    yield from operation(whole, method, path, operations[method])
    yield "## Schemas"
    yield ""
    for name, schema in whole["components"]["schemas"].items():
        yield f"### {name}"
        yield ""
        yield schema["description"]
        if "oneOf" in schema:
            yield ""
            yield kind(schema) + "."
        listed = list(fields(schema))
        if listed:
            yield ""
            yield from listed
        yield ""


def main():
    text = "\n".join(render()).rstrip() + "\n"
    path = FOLDER / "API.md"
    if "--check" not in sys.argv:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path} is out of date: python3 .ci/render_api.py")


if __name__ == "__main__":
    main()
