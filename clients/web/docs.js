// Shows the OpenAPI document. The validator's badge would ask another host.

globalThis.SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
