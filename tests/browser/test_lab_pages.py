"""What the tests of panels ask of a picture, where a page replaces the picture faster than it can be asked."""

import pytest
from lab_pages import in_view, of_image, shot

PAGE = """<div class="cell"><div class="jp-OutputArea"></div></div><script>(() => {
  const area = document.querySelector('.jp-OutputArea'), canvas = document.createElement('canvas');
  canvas.width = canvas.height = 200;
  let drawn = 0;
  const draw = () => {
    canvas.getContext('2d').fillText(drawn++, 50, 50);
    const image = new Image();
    image.src = canvas.toDataURL();
    if (drawn < COUNT && drawn % 2) image.style.display = 'none'; // as one that is not laid out yet
    area.replaceChildren(image);
    if (drawn < COUNT) setTimeout(draw, 10);
  };
  draw();
})()</script>"""


@pytest.mark.parametrize("count", [1, 40, 120])
def test_a_picture_that_is_replaced_is_asked_again(browser, count):
    page = browser.new_page()
    for _ in range(5):
        page.set_content(PAGE.replace("COUNT", str(count)))
        assert shot(page.locator(".cell"))[:4] == b"\x89PNG"
        page.set_content(PAGE.replace("COUNT", str(count)))
        assert of_image(page.locator(".cell"), in_view)["width"] == 200
    page.close()
