//! Pins a service's image to the digest that its tag has now, as Docker's client does.

use crate::cli::CliError;
use crate::cli::client::encode;
use crate::cli::context::Context;
use crate::cli::query::has_tag;
use crate::model::engine::image::DistributionInspect;
use crate::model::image_ref::Reference;
use crate::model::engine::task::{Placement, Platform, TaskSpec};

/// The image that every skep packs of itself: it differs between nodes, so it is never pinned.
const OWN_IMAGE: &str = "skep/hello";

/// Adds `:latest` where there is no tag and, if `resolve`, the digest and the platforms that the
/// image has. An image that cannot be asked for is a warning, not an error.
pub fn pin(ctx: &mut Context, template: &mut TaskSpec, resolve: bool) -> Result<(), CliError> {
    let Some(container) = &mut template.container_spec else { return Ok(()) };
    if Reference::parse(&container.image).is_err() {
        // The daemon says what is wrong with it.
        return Ok(());
    }
    container.image = with_tag(&container.image);
    // Those of an earlier image say nothing about this one.
    if let Some(placement) = &mut template.placement {
        placement.platforms.clear();
    }
    let name = container.image.split([':', '@']).next();
    if !resolve || name == Some(OWN_IMAGE) || container.image.is_empty() {
        return Ok(());
    }
    let path = format!("/distribution/{}/json", encode(&container.image));
    let found: DistributionInspect = match ctx.client.get(&path) {
        Ok(found) => found,
        Err(error @ (CliError::Daemon { .. } | CliError::BadJson(_))) => {
            drop(error);
            return ctx.error(&unknown(&container.image));
        }
        Err(error) => return Err(error),
    };
    if !container.image.contains('@') && !found.descriptor.digest.is_empty() {
        container.image = format!("{}@{}", container.image, found.descriptor.digest);
    }
    let placement = template.placement.get_or_insert_with(Placement::default);
    placement.platforms = found
        .platforms
        .into_iter()
        .filter(|platform| platform.os != "unknown")
        .map(|platform| Platform {
            // Docker leaves it open for `arm`: its variants cannot be compared.
            architecture: match platform.architecture.as_str() {
                "arm" => String::new(),
                _ => platform.architecture,
            },
            os: platform.os,
        })
        .collect();
    Ok(())
}

/// `nginx` is `nginx:latest`; a digest needs no tag.
fn with_tag(image: &str) -> String {
    if image.is_empty() || image.contains('@') || has_tag(image) || image.ends_with('/') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

fn unknown(image: &str) -> String {
    format!(
        "image {image} could not be accessed on a registry to record\n\
         its digest. Each node will access {image} independently,\n\
         possibly leading to different nodes running different\n\
         versions of the image.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::with_tag;

    #[test]
    fn the_tag_is_latest_where_none_is_given() {
        for (image, full) in [
            ("nginx", "nginx:latest"),
            ("nginx:alpine", "nginx:alpine"),
            ("h:5000/nginx", "h:5000/nginx:latest"),
            ("h:5000/nginx:1", "h:5000/nginx:1"),
            ("nginx@sha256:ab", "nginx@sha256:ab"),
            ("", ""),
        ] {
            assert_eq!(with_tag(image), full);
        }
    }
}
