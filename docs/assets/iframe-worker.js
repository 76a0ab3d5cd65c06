// A browser starts no worker for a page that was opened from a folder. There the search runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(script) {
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      const scope = this.frame.contentWindow;
      scope.document.open();
      scope.postMessage = (data) => setTimeout(() => this.onmessage?.({ data }));
      this.frame.onload = () => {
        this.scope = scope;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      };
      const element = scope.document.createElement("script");
      element.src = script;
      scope.document.write(element.outerHTML);
      scope.document.close();
    }

    postMessage(data) {
      if (this.scope) setTimeout(() => this.scope.onmessage({ data }));
      else this.waiting.push(data);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
