"""What all rooms' tests share: nothing but the order. What starts whole systems runs last."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
