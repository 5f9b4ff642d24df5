//! A tiny web server that tells its host name: the face that runs inside the image `skep/hello`.
