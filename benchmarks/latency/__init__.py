"""Acting late on the tabletop: success with a delay between seeing and acting, by what happens in between."""
