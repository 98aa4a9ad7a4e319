"""From a package and the layers it may name to its image: config and manifest, the same bytes every time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio.to_thread

from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.oci.base_image import OCI_FORMAT, BaseImage
from uploader.oci.image_config import image_config
from uploader.oci.manifest import ID_ANNOTATION, manifest_bytes, missing_annotation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.graph.plan import Closure
    from uploader.model.package import Package, PackageId, Platform
    from uploader.sources.base import Format


@dataclass(frozen=True, slots=True)
class Image:
    """A package's manifest and config, ready to be sent; `layers` are all that it names, the base image's first."""

    layers: tuple[Layer, ...]
    config: bytes
    config_descriptor: Descriptor
    manifest: bytes
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class ImageMaker:
    """`created` goes into every config (RFC 3339); `bases` are the base images, `formats` what some packages need."""

    created: str
    bases: Mapping[Platform, BaseImage] = field(default_factory=dict)
    formats: Mapping[PackageId, Format] = field(default_factory=dict)

    async def make(self, package: Package, closure: Closure) -> Image:
        """Raises SourceError where a format needs files that cannot be read."""
        base = self.bases.get(package.platform)
        image_format = base.format if base else OCI_FORMAT
        below = base.layers if base else ()
        missing = [replace(m, index=len(below) + m.index) for m in closure.missing]  # rule 5 counts them too
        labels = {ID_ANNOTATION: str(package.id), **missing_annotation(missing)}
        package_format = self.formats.get(package.id)
        more = None
        if package_format is not None:
            more = await anyio.to_thread.run_sync(package_format.config, closure.layers[-1])
        config = image_config(
            package,
            [layer.diff_id for layer in closure.layers],
            created=self.created,
            base=base,
            labels=None if image_format.annotations else labels,
            more=more,
        )
        layers = (*below, *closure.layers)
        described = _described(config, image_format.config)
        manifest = manifest_bytes(
            described,
            [image_format.layer(layer.descriptor) for layer in layers],
            {**package.annotations, **labels},
            media_type=image_format.manifest,
        )
        return Image(layers, config, described, manifest, _described(manifest, image_format.manifest))


def _described(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))
