"""What the publish step does."""

from components.endings import published
from components.publish.model_registry import register
from components.registry import place_of
from drtune.errors import UserError
from drtune.publishing.registry import PRODUCTION, Registry


def run(
    model_folder: str,
    report_folder: str,
    decision_folder: str,
    registry: str,
    name: str,
    model_registry: str,
    entry_folder: str,
) -> dict[str, str]:
    """Publish, write the RegistryEntry, register it where that is wanted, and return what the run's page shows of it.

    Raises:
        UserError: the model registry does not take it; it is published all the same.
    """
    place = place_of(registry)
    entry = Registry(place).publish(name, model_folder, report_folder, decision_folder)
    entry.save(entry_folder)
    print(published(entry.name, entry.version, entry.uri), flush=True)
    if model_registry:
        try:
            register_published(place, f"{entry.name}@{entry.version}", model_registry)
        except UserError as error:
            again = f"drtune-pipeline register {name}@{entry.version} --registry {place} --to {model_registry}"
            raise UserError(f"{error}; {entry.name} {entry.version} is published, `{again}` registers it") from None
    return {"uri": entry.uri, "version": entry.version, "digest": entry.digest}


def register_published(registry: str, source: str, model_registry: str) -> str:
    """Register a version, NAME or NAME@VERSION (default: that in production), and say so in a line.

    Raises:
        UserError: there is no such version, or the model registry does not take it.
    """
    name, _, version = source.partition("@")
    published = Registry(registry)
    entry = published.show(name, version or PRODUCTION)
    register(entry, published.report(entry), model_registry)
    return f"registered: {entry.name} {entry.version} at {model_registry}"
