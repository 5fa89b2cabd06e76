"""What the publish step does."""

from components.endings import published
from components.registry import place_of
from drtune.publishing.registry import Registry


def run(
    model_folder: str, report_folder: str, decision_folder: str, registry: str, name: str, entry_folder: str
) -> dict[str, str]:
    """Publish, write the RegistryEntry, and return what the run's page shows of it."""
    entry = Registry(place_of(registry)).publish(name, model_folder, report_folder, decision_folder)
    entry.save(entry_folder)
    print(published(entry.name, entry.version, entry.uri))
    return {"uri": entry.uri, "version": entry.version, "digest": entry.digest}
